"""The domains: one module or package for each kind of resource, with its wire structs, operations and routes."""
