"""The second stage: what a first search ranks highest is ranked again by a small network on features of each pair."""
