//! What a guest can ask of the machine's power supply.

/// A request that ends the machine's present run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Switch the machine off.
    PowerOff,
    /// Reset the machine.
    Reset,
    /// End the monitor with this status: the guest wrote v to the debug-exit port, the status is
    /// 2v+1 (modulo 2³²).
    DebugExit(u32),
}

/// Where [`PowerRequest`]s go. Called with the asking chip locked, on the thread of the vCPU that
/// asked: an implementation only notes the request and wakes who serves it.
pub trait PowerSink: Send + Sync {
    /// Notes a request.
    fn request(&self, request: PowerRequest);
}
