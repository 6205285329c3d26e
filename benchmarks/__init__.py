"""How fast Gristmill is on this machine, beside the fastest comparable Python queue. Run it: `make bench` (docs/performance.md)."""
