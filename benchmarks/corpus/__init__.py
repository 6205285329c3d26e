"""Documents that nobody here wrote, and how well they are read: `make corpus`, then `make corpus ARGS=measure`."""
