"""The torch modules of families that no library has."""
