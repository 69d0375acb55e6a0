"""No function of it is called here."""
