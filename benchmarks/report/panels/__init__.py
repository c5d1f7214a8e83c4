"""Extra figures of single entries for the report; a card names its function as `module:function`."""
