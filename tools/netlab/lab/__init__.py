"""A running lab: namespaces, links, NATs, processes."""
