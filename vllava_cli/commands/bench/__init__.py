"""`vllava bench`: how fast this tool is here, beside the documentation's snippet and the machine's limits."""
