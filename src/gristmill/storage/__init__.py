"""Where the bytes of files are: a folder of this host, or an S3-compatible store that all hosts share. No SQL."""
