"""Backbone families: how a row of backbones.yaml becomes torch modules. A family is a module here with a FAMILY."""

from gcl.common.names import provided
from gcl.models.base import Built, Family, Graph, Keys

__all__ = ["Built", "Family", "Graph", "Keys", "family"]


def family(name: str) -> Family:
    """Return a family by the name of its module, which is imported only now.

    Raises:
        UserError: there is no such family; says which is close.
    """
    module_family: Family = provided("gcl.models", "FAMILY", name, "backbone family")
    return module_family
