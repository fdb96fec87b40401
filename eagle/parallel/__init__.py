"""One target divided among processes: who leads, who follows, and what they say to each other."""
