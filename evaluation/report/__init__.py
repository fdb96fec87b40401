"""From rows to numbers with intervals, tables, pictures and one page."""
