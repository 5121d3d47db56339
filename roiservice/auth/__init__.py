"""Who is asking, and may they read this image: tokens, OMERO.web's sessions and its permissions."""
