from gcl.infer.model import Model as Model
from gcl.infer.model import load as load
from gcl.losses.gcl import gcl_loss as gcl_loss
from gcl.losses.module import GCLLoss as GCLLoss
from gcl.retrieve.scan.rounded import rounded as rounded
from gcl.retrieve.search import Hits as Hits
from gcl.retrieve.search import search as search
from gcl.score.evaluate import evaluate as evaluate

__version__: str
