//! Assembles memory, vCPUs and platform into a machine and runs it.
