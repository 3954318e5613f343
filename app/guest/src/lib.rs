//! Gets guests: packages from the host's package manager, initramfs of our own.
