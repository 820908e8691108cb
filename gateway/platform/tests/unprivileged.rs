//! A whole world without root: a user namespace, two network namespaces with a wire between them, and a device.

use std::{io, os::fd::AsFd, process::ExitCode};

fn main() -> ExitCode {
    // `--list` of the test runners: this one has no parts.
    if std::env::args().any(|argument| argument == "--list") {
        println!("unprivileged_world: test");
        return ExitCode::SUCCESS;
    }
    match world() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("unprivileged: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn world() -> io::Result<&'static str> {
    Ok("skipped: Linux only")
}

#[cfg(target_os = "linux")]
fn world() -> io::Result<&'static str> {
    use overlay_platform::{
        DeviceSpec, HostNet, Layer,
        change::{DesiredHost, intended},
        os::{
            LinuxHost, TunDevice,
            link::{self, End},
            netns,
            resolved::BusAddress,
        },
    };

    if nix::unistd::Uid::effective().is_root() {
        nix::unistd::setgid(65534.into())?;
        nix::unistd::setuid(65534.into())?;
        // Having been root hides /proc/self/uid_map; an ordinary user's process never was.
        nix::sys::prctl::set_dumpable(true)?;
    }
    match netns::unshare_world() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSPC | libc::ENOSYS)) => {
            return Ok("skipped: this host allows no user namespaces");
        }
        result => result?,
    }
    let (here, there) = (netns::current()?, netns::create()?);
    let nets = ["192.0.2.1/24", "192.0.2.2/24"].map(|net| [net.parse().map_err(io::Error::other)]);
    let [[left], [right]] = nets;
    let (left, right) = ([left?], [right?]);
    link::veth(
        End { name: "wire", namespace: here.as_fd(), addresses: &left },
        End { name: "wire", namespace: there.as_fd(), addresses: &right },
    )?;
    if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Ok(
            "ok: a wire in a world without root; the device skipped: /dev/net/tun is root's alone here",
        );
    }
    let own = |last| std::net::Ipv4Addr::new(172, 16, 8, last);
    let net = |last, len| ipnet::Ipv4Net::new(own(last), len).map_err(io::Error::other);
    let desired = DesiredHost {
        slot: net(56, 29)?,
        gateway: own(56),
        address: own(57),
        client_access: own(58),
        overlay: net(0, 24)?,
        routes: vec![],
        dns: vec![],
        mtu: 1420,
        windows: overlay_config::Windows::default(),
    };
    netns::run_in(there.as_fd(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let host = LinuxHost::connect("Overlay", BusAddress::default()).map_err(io::Error::other)?;
            let spec = DeviceSpec {
                name: "Overlay".into(),
                layer: Layer::Tun,
                mac: None,
                mtu: 1420,
                offload: true,
                guid: 0,
                recorded_index: None,
            };
            let opened = TunDevice::open(&spec, &host).await.map_err(io::Error::other)?;
            for change in intended(&desired) {
                host.apply(&change).await.map_err(io::Error::other)?;
            }
            drop(opened);
            host.delete_device().await.map_err(io::Error::other)
        })
    })?;
    Ok("ok: a device in a world without root")
}
