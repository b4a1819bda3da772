"""What a person does with a model: index a folder, search it, serve it, hand its vectors on."""
