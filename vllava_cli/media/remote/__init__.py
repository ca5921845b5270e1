"""Media by URL: fetched into a bounded cache of this machine, from where and how it is allowed, then read as files."""
