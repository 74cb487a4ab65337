"""Word of a run to people who are not watching: what is worth telling, and by which way it goes."""
