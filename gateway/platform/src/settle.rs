//! Host and record together: bringing the host to what is intended, and clearing it again. Both may be interrupted
//! anywhere and done again.

use ipnet::Ipv4Net;

use crate::{
    HostError, HostNet, Outcome,
    change::Change,
    record::{Origin, Record, RecordError},
};

/// Why the host could not be settled or cleared.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The record could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What settling did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Made just now.
    pub added: Vec<Change>,
    /// Was there and is not ours: left alone, now and later.
    pub found: Vec<Change>,
    /// Ours of before, no longer intended: taken back.
    pub removed: Vec<Change>,
    /// DNS servers that were not set, since systemd-resolved does not run. The caller warns.
    pub no_resolved: Option<Change>,
    /// DNS servers that were not set, since somebody else has set others. The caller warns.
    pub other_servers: Option<Change>,
}

/// What clearing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// What was ours and was taken back.
    pub removed: Vec<Change>,
    /// Addresses on the device that are somebody else's: for their sake the device stays.
    pub kept: Vec<Ipv4Net>,
    /// Whether the device was deleted.
    pub device_removed: bool,
}

impl Cleared {
    /// Whether there was nothing to clear at all.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Brings the host to `intended`: makes what is missing, and takes back what the record holds from an earlier
/// configuration and is not intended any more. Listeners added by command stay. For the start, for an adopted device and
/// for a reload alike; what is as it should be is not touched.
///
/// # Errors
/// When the host refuses a change or the record cannot be written. What was made until then is in the record.
pub async fn settle<H: HostNet>(
    host: &H,
    record: &mut Record,
    intended: &[Change],
) -> Result<Settled, SettleError> {
    let mut settled = Settled::default();
    let stale: Vec<Change> = record
        .entries()
        .iter()
        .filter(|entry| entry.origin == Origin::Config && !intended.contains(&entry.change))
        .map(|entry| entry.change.clone())
        .collect();
    for change in stale.into_iter().rev() {
        if host.undo(&change).await? {
            settled.removed.push(change.clone());
        }
        record.forget(&[change])?;
    }
    // What is there and not in the record is somebody else's. The rest is written down in one go, then made.
    let mut missing = Vec::new();
    for change in intended {
        let foreign = change.is_recorded() && !record.is_ours(change) && !change.bears_our_name();
        if foreign && host.present(change).await? {
            settled.found.push(change.clone());
        } else {
            missing.push(change.clone());
        }
    }
    let before: Vec<Change> = record.entries().iter().map(|entry| entry.change.clone()).collect();
    record.begin(&missing, Origin::Config)?;
    let mut not_ours = Vec::new();
    let mut result = Ok(());
    for change in missing {
        let was_ours = before.contains(&change) || change.bears_our_name();
        let outcome = if result.is_ok() { host.apply(&change).await } else { Ok(Outcome::AlreadyThere) };
        match outcome {
            Ok(Outcome::Added) => settled.added.push(change),
            Ok(Outcome::AlreadyThere) if !change.is_recorded() || was_ours => {}
            Ok(Outcome::AlreadyThere) => {
                not_ours.push(change.clone());
                settled.found.push(change);
            }
            Ok(Outcome::NoResolved) => {
                not_ours.push(change.clone());
                settled.no_resolved = Some(change);
            }
            Ok(Outcome::OtherServers) => {
                not_ours.push(change.clone());
                settled.other_servers = Some(change);
            }
            // What is left after a refusal is not made, and so not ours.
            Err(error) => {
                if !was_ours {
                    not_ours.push(change);
                }
                result = Err(error);
            }
        }
    }
    record.forget(&not_ours)?;
    result?;
    Ok(settled)
}

/// Makes one change by command (`listener add`) and records it as ours. [`Outcome::AlreadyThere`]: somebody else's,
/// or ours already; [`Record::is_ours`] tells which.
///
/// # Errors
/// When the host refuses the change or the record cannot be written.
pub async fn add<H: HostNet>(host: &H, record: &mut Record, change: &Change) -> Result<Outcome, SettleError> {
    let ours = record.is_ours(change);
    if !ours && host.present(change).await? {
        return Ok(Outcome::AlreadyThere);
    }
    record.begin(std::slice::from_ref(change), Origin::Command)?;
    let outcome = host.apply(change).await;
    if !ours && !matches!(outcome, Ok(Outcome::Added)) {
        record.forget(std::slice::from_ref(change))?;
    }
    Ok(outcome?)
}

/// Takes back one change that is ours (`listener remove`). `false`: it is not ours, and nothing was done.
///
/// # Errors
/// When the host refuses, or the record cannot be written.
pub async fn remove<H: HostNet>(host: &H, record: &mut Record, change: &Change) -> Result<bool, SettleError> {
    if !record.is_ours(change) {
        return Ok(false);
    }
    host.undo(change).await?;
    record.forget(std::slice::from_ref(change))?;
    Ok(true)
}

/// Clears the host of exactly what the record says, last change first, and then deletes the device, unless foreign
/// addresses are on it. `record` is what [`Record::load`] gave, if anything; without one, or with one of another boot or
/// device, a device that bears our mark and has no address is still deleted.
///
/// # Errors
/// When the host refuses, or the record cannot be written. Do it again: what is left is still in the record.
pub async fn clear<H: HostNet>(
    host: &H,
    record: Option<Record>,
    boot_id: &str,
) -> Result<Cleared, SettleError> {
    let mut cleared = Cleared::default();
    let facts = host.device().await?;
    let mut record = record;
    // Of whatever boot and device the record is.
    if let Some(record) = &mut record {
        let named = record.entries().iter().map(|entry| entry.change.clone());
        let named: Vec<Change> = named.filter(Change::bears_our_name).collect();
        for change in named.into_iter().rev() {
            if host.undo(&change).await? {
                cleared.removed.push(change.clone());
            }
            record.forget(&[change])?;
        }
    }
    let Some(facts) = facts else {
        // On Windows somebody may just be making it.
        cleared.device_removed = host.delete_device().await?;
        if let Some(record) = record {
            record.remove()?;
        }
        return Ok(cleared);
    };
    let mut ours = facts.marked;
    if let Some(current) =
        record.as_mut().filter(|r| r.boot_id() == boot_id && r.device().ifindex == facts.ifindex)
    {
        ours = true;
        let entries: Vec<Change> = current.entries().iter().map(|entry| entry.change.clone()).collect();
        for change in entries.into_iter().rev() {
            if host.undo(&change).await? {
                cleared.removed.push(change.clone());
            }
            current.forget(&[change])?;
        }
    }
    if !ours {
        return Ok(cleared);
    }
    cleared.kept = host.device_addresses().await?;
    if cleared.kept.is_empty() {
        cleared.device_removed = host.delete_device().await?;
        if let Some(record) = record {
            record.remove()?;
        }
    }
    Ok(cleared)
}
