"""Repositories of the Hugging Face hub, from the mesh: the routes that its clients ask."""
