"""OMERO.web beside the service: what is asked of it, and what is made of its answers."""
