//! Executable memory and the guard that turns host faults in generated code into values.
