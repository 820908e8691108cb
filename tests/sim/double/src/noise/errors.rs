//! Why the session refused something.

/// As boringtun names them.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum WireGuardError {
    DestinationBufferTooSmall,
    UnexpectedPacket,
    WrongIndex,
    WrongKey,
    WrongTai64nTimestamp,
    InvalidMac,
    InvalidAeadTag,
    InvalidCounter,
    DuplicateCounter,
    InvalidPacket,
    NoCurrentSession,
    ConnectionExpired,
    UnderLoad,
}
