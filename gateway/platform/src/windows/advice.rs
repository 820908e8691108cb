//! What to do about what is in the way, in the words of this system.

/// Who may do it.
pub const RIGHTS: &str = "run in a console of an administrator";

/// Removes a device.
pub const REMOVE_DEVICE: &str = "remove it in the Device Manager (devmgmt.msc, Network adapters)";

/// Shows who has a UDP port.
pub const PORT_HOLDER: &str = "see who has it with `netstat -abno -p UDP`";

/// Sets the clock.
pub const SET_CLOCK: &str = "set the clock (w32tm /query /status; w32tm /resync)";

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use crate::{DeviceError, HostError, record::RecordError};

    #[test]
    fn no_error_of_this_system_asks_for_what_only_linux_has() {
        let (name, source) = (|| "Overlay".to_owned(), || io::Error::from(io::ErrorKind::PermissionDenied));
        let said = [
            DeviceError::NotOurs { name: name() }.to_string(),
            DeviceError::NoTap.to_string(),
            DeviceError::NoLibrary { source: source() }.to_string(),
            DeviceError::Io { name: name(), source: source() }.to_string(),
            DeviceError::Permission { name: name(), source: source() }.to_string(),
            HostError::Permission { what: name(), source: source() }.to_string(),
            HostError::Refused { what: name(), source: source() }.to_string(),
            HostError::NoDevice { name: name() }.to_string(),
            RecordError::Broken { path: PathBuf::new(), kept_as: PathBuf::new(), text: name() }.to_string(),
        ];
        for text in said {
            for word in ["ip link", "root", "CAP_", "systemctl", "sudo", "/dev/", "chmod"] {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
    }
}
