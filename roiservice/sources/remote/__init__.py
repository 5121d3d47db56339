"""Stores behind a network: http(s), S3, and zip files on either."""
