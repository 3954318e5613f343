//! Reads kernels and builds a guest's initial memory and CPU state.
