//! The channels of a namespace and their definitions, which converge.
