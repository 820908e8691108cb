//! Firewall rules (INetFwPolicy2) and the network's category (INetworkListManager): two COM interfaces, each call on a
//! thread of its own, since a thread's COM apartment is nobody else's business.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::io;

use windows::{
    Win32::{
        NetworkManagement::WindowsFirewall::{
            INetFwPolicy2, INetFwRule, NET_FW_ACTION_ALLOW, NET_FW_PROFILE2_DOMAIN, NET_FW_PROFILE2_PRIVATE,
            NET_FW_RULE_DIR_IN, NetFwPolicy2, NetFwRule,
        },
        Networking::NetworkListManager::{
            INetworkListManager, NLM_NETWORK_CATEGORY_PRIVATE, NLM_NETWORK_CATEGORY_PUBLIC,
            NetworkListManager,
        },
        System::{
            Com::{
                CLSCTX_ALL, COINIT_MULTITHREADED, CoCreateInstance, CoInitializeEx, CoUninitialize,
                SAFEARRAYBOUND,
            },
            Ole::{SafeArrayCreate, SafeArrayDestroy, SafeArrayPutElement},
            Variant::{VARIANT, VT_ARRAY, VT_VARIANT},
        },
    },
    core::{BSTR, Result},
};

use super::category::Seen;
use crate::change::FirewallRule;

/// The firewall's service does not run (EPT_S_NOT_REGISTERED, RPC_S_SERVER_UNAVAILABLE as HRESULTs).
const NO_FIREWALL: [u32; 2] = [0x8007_06d9, 0x8007_06ba];

/// Adds a rule for the adapter called `device`. `false`: it was there, or no firewall runs.
///
/// # Errors
/// What the system says.
pub fn add_rule(device: &str, rule: &FirewallRule) -> io::Result<bool> {
    let (device, rule) = (device.to_owned(), rule.clone());
    in_apartment(move || {
        // SAFETY: COM is initialised on this thread; the interfaces are counted.
        unsafe {
            let policy: INetFwPolicy2 = CoCreateInstance(&NetFwPolicy2, None, CLSCTX_ALL)?;
            let rules = policy.Rules()?;
            let name = BSTR::from(name(&device, &rule));
            if rules.Item(&name).is_ok() {
                return Ok(false);
            }
            let made: INetFwRule = CoCreateInstance(&NetFwRule, None, CLSCTX_ALL)?;
            made.SetName(&name)?;
            made.SetDescription(&BSTR::from(rule.purpose.as_str()))?;
            made.SetGrouping(&BSTR::from("overlay-gw"))?;
            made.SetProtocol(i32::from(rule.protocol))?;
            if let Some(ports) = &rule.local_ports {
                made.SetLocalPorts(&BSTR::from(ports.as_str()))?;
            }
            made.SetDirection(NET_FW_RULE_DIR_IN)?;
            made.SetAction(NET_FW_ACTION_ALLOW)?;
            // Both, for nobody can move a network out of Domain.
            made.SetProfiles(NET_FW_PROFILE2_DOMAIN.0 | NET_FW_PROFILE2_PRIVATE.0)?;
            set_interfaces(&made, &device)?;
            made.SetEnabled(true.into())?;
            rules.Add(&made)?;
            Ok(true)
        }
    })
}

/// Removes a rule that [`add_rule`] made. `false`: it was not there.
///
/// # Errors
/// What the system says.
pub fn remove_rule(device: &str, rule: &FirewallRule) -> io::Result<bool> {
    let name = name(device, rule);
    in_apartment(move || {
        // SAFETY: as above.
        unsafe {
            let policy: INetFwPolicy2 = CoCreateInstance(&NetFwPolicy2, None, CLSCTX_ALL)?;
            let rules = policy.Rules()?;
            let name = BSTR::from(name);
            if rules.Item(&name).is_err() {
                return Ok(false);
            }
            rules.Remove(&name)?;
            Ok(true)
        }
    })
}

/// Whether the rule is there.
#[must_use]
pub fn has_rule(device: &str, rule: &FirewallRule) -> bool {
    let name = name(device, rule);
    let there = in_apartment(move || {
        // SAFETY: as above.
        unsafe {
            let policy: INetFwPolicy2 = CoCreateInstance(&NetFwPolicy2, None, CLSCTX_ALL)?;
            Ok(policy.Rules()?.Item(&BSTR::from(name)).is_ok())
        }
    });
    there.unwrap_or(false)
}

/// The rule's name: one for each adapter.
fn name(device: &str, rule: &FirewallRule) -> String {
    format!("overlay-gw {device}: {}", rule.name)
}

/// Restricts the rule to one adapter, by its name: `Interfaces` is an array of variants (INetFwRule::put_Interfaces).
fn set_interfaces(rule: &INetFwRule, device: &str) -> Result<()> {
    // SAFETY: the array has one place, which is filled; the variant's union says what it holds, and is taken apart before the
    // array is destroyed.
    unsafe {
        let bound = SAFEARRAYBOUND { cElements: 1, lLbound: 0 };
        let array = SafeArrayCreate(VT_VARIANT, 1, &raw const bound);
        if array.is_null() {
            return Err(windows::Win32::Foundation::E_OUTOFMEMORY.into());
        }
        let (place, device) = (0, VARIANT::from(device));
        let done = SafeArrayPutElement(array, &raw const place, (&raw const device).cast()).and_then(|()| {
            let mut interfaces = std::mem::ManuallyDrop::new(VARIANT::default());
            let inner = &mut *interfaces.Anonymous.Anonymous;
            inner.vt = windows::Win32::System::Variant::VARENUM(VT_ARRAY.0 | VT_VARIANT.0);
            inner.Anonymous.parray = array;
            rule.SetInterfaces(&interfaces)
        });
        SafeArrayDestroy(array)?;
        done
    }
}

/// Puts the adapter's network into the category Private, if it is Public. Domain stays, and so does what an administrator chose.
///
/// # Errors
/// What the system says.
pub fn make_private(guid: u128) -> io::Result<Seen> {
    on_this_thread(|| category(guid)).map_err(io::Error::other)
}

/// What the network was.
fn category(guid: u128) -> Result<Seen> {
    // SAFETY: COM is initialised on this thread; the interfaces are counted.
    unsafe {
        let manager: INetworkListManager = CoCreateInstance(&NetworkListManager, None, CLSCTX_ALL)?;
        let connections = manager.GetNetworkConnections()?;
        loop {
            let (mut next, mut count) = ([None], 0);
            connections.Next(&mut next, Some(&raw mut count))?;
            let [Some(connection)] = next else { return Ok(Seen::NoNetwork) };
            if connection.GetAdapterId()?.to_u128() != guid {
                continue;
            }
            let network = connection.GetNetwork()?;
            if network.GetCategory()? == NLM_NETWORK_CATEGORY_PUBLIC {
                network.SetCategory(NLM_NETWORK_CATEGORY_PRIVATE)?;
                if network.GetCategory()? == NLM_NETWORK_CATEGORY_PUBLIC {
                    return Ok(Seen::Public);
                }
                tracing::info!("the adapter's network is Private now");
            }
            return Ok(Seen::Settled);
        }
    }
}

fn in_apartment(work: impl FnOnce() -> Result<bool> + Send + 'static) -> io::Result<bool> {
    let done = std::thread::spawn(move || on_this_thread(work)).join();
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if NO_FIREWALL.contains(&(error.code().0 as u32)) => {
            tracing::warn!("the firewall's service does not run: no rule is needed, and none is made");
            Ok(false)
        }
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::other("the system's policy code panicked")),
    }
}

fn on_this_thread<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: balanced below, after the last interface is gone.
    unsafe { CoInitializeEx(None, COINIT_MULTITHREADED) }.ok()?;
    let done = work();
    // SAFETY: as above.
    unsafe { CoUninitialize() };
    done
}
