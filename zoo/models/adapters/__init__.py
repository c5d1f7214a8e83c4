"""Low-rank adapters of a frozen network; what its entries share lies beside them."""
