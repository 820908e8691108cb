//! What a wait for packets has found.

/// How many sources one call can wait for: two sockets and a device, with room to grow.
pub const MAX_WAITED: usize = 8;

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The waker was pulled (and is re-armed now).
    pub woken: bool,
    readable: u8,
}

impl Ready {
    /// Whether the source at position `index` has something to read, or an error to report.
    #[must_use]
    pub fn is_readable(self, index: usize) -> bool {
        index < MAX_WAITED && self.readable & (1 << index) != 0
    }

    /// Whether anything happened; otherwise the time ran out.
    #[must_use]
    pub fn any(self) -> bool {
        self.woken || self.readable != 0
    }

    /// Notes that the source at position `index`, below [`MAX_WAITED`], is ready.
    pub(crate) fn set_readable(&mut self, index: usize) {
        self.readable |= 1 << index;
    }
}
