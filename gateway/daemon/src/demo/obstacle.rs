//! What can keep a demo from running on this machine, each with what to do about it.

use crate::exit::Failure;
use std::fs;
use std::io::{self, ErrorKind};

const TUN: &str = "/dev/net/tun";

/// The settings by which a host forbids user namespaces to those who are not root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Knobs {
    /// `user.max_user_namespaces` is 0.
    none_at_all: bool,
    /// `kernel.unprivileged_userns_clone` is 0 (Debian's kernels up to 12).
    not_cloned: bool,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1 (Ubuntu 24.04).
    apparmor: bool,
}

/// Looks for obstacles before anything is done.
///
/// # Errors
/// An old kernel, or no TUN driver to be had: exit code 4.
pub fn check() -> Result<(), Failure> {
    overlay_platform::os::check_kernel().map_err(|error| in_two_parts(&error.to_string()))?;
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) => Err(no_tun(&error)),
    }
}

/// There is no world of one's own to be had.
pub fn no_world(error: &io::Error) -> Failure {
    let on = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let knobs = Knobs {
        none_at_all: on("/proc/sys/user/max_user_namespaces", "0"),
        not_cloned: on("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        apparmor: on("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    };
    if nix::unistd::Uid::effective().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_all(&map))
    {
        return Failure::bad_input(
            format!("root may not make network namespaces here: {error}"),
            "in a container, run it with the capabilities for it: docker run --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun --security-opt apparmor=unconfined",
        );
    }
    no_user_namespace(error, knobs)
}

/// Whether a uid_map is the host's own, in which everybody is mapped to himself.
fn maps_all(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn no_user_namespace(error: &io::Error, knobs: Knobs) -> Failure {
    let how = if knobs.none_at_all {
        "; or allow user namespaces: sudo sysctl user.max_user_namespaces=1000"
    } else if knobs.not_cloned {
        "; or allow user namespaces: sudo sysctl kernel.unprivileged_userns_clone=1"
    } else if knobs.apparmor {
        "; or allow user namespaces: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        " (in a container: docker run --privileged)"
    };
    Failure::bad_input(
        format!("this machine gives no user namespace to those who are not root: {error}"),
        format!("run it as root: sudo overlay-gw demo{how}"),
    )
}

fn no_tun(error: &io::Error) -> Failure {
    let fix = match error.kind() {
        ErrorKind::NotFound => {
            "load the driver: sudo modprobe tun; in a container, pass it in: docker run --device /dev/net/tun"
        }
        ErrorKind::PermissionDenied => {
            "run it as root: sudo overlay-gw demo; or let everybody open it, as most systems do: sudo chmod 666 /dev/net/tun"
        }
        _ => "load the driver: sudo modprobe tun",
    };
    Failure::bad_input(format!("{TUN} cannot be opened: {error}"), fix)
}

/// The platform's errors hold what to do after the first line.
fn in_two_parts(text: &str) -> Failure {
    match text.split_once('\n') {
        Some((what, fix)) => Failure::bad_input(what, fix.trim()),
        None => Failure { code: crate::exit::BAD_INPUT, text: text.to_owned(), fix: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_forbid_user_namespaces_has_its_own_way_out() {
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let cases = [
            (Knobs { none_at_all: true, ..Knobs::default() }, "user.max_user_namespaces"),
            (Knobs { not_cloned: true, ..Knobs::default() }, "unprivileged_userns_clone=1"),
            (Knobs { apparmor: true, ..Knobs::default() }, "apparmor_restrict_unprivileged_userns=0"),
            (Knobs::default(), "container"),
        ];
        for (knobs, word) in cases {
            let failure = no_user_namespace(&denied, knobs);
            assert_eq!(failure.code, crate::exit::BAD_INPUT);
            let fix = failure.fix.unwrap();
            assert!(fix.contains(word) && fix.contains("sudo overlay-gw demo"), "{fix}");
        }
    }

    #[test]
    fn a_tun_driver_that_is_missing_and_one_that_is_closed_are_told_apart() {
        let fix = |kind: ErrorKind| no_tun(&kind.into()).fix.unwrap();
        assert!(fix(ErrorKind::NotFound).contains("modprobe tun"));
        assert!(fix(ErrorKind::PermissionDenied).contains("chmod 666"));
    }

    #[test]
    fn only_the_hosts_own_user_namespace_maps_everybody() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n"));
    }
}
