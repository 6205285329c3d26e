"""How fast Gristmill is on this machine, beside the fastest comparable Python queue: `make bench` (docs/performance.md)."""
