"""Ways through a large pool that drop what can not be among the best unseen."""
