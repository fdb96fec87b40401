"""Right or wrong: numbers compared, programs executed."""
