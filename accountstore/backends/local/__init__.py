"""A folder of the local machine as a storage."""
