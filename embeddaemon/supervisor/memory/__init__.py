"""Memory: leases and needs of processes, who goes for whom, hard limits, what was learned about footprints."""
