"""S3, Google Cloud Storage and Azure through the Rust client obstore."""
