"""Low-rank adapters of a frozen network, with the modules that its entries share."""
