"""Stage 1: make the files of a data set present and check them."""
