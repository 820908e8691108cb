//! Watching the adapter: an address or the link changed, by us or by anybody else.
//!
//! A look each second notices what no notification tells: the adapter taken away, a resume from hibernation.

use std::{sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{
    host::{Host, connect_host},
    subscription::{Subscription, Topic},
};
use crate::{HostError, HostNet};

/// How often the adapter is looked at without being told.
const PACE: Duration = Duration::from_secs(1);

/// A burst of notifications is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(3);

/// What the adapter is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It is there.
    Present {
        /// A number of this creation of it: another one than before means another adapter.
        ifindex: u32,
        /// Whether it is administratively up.
        up: bool,
        /// Its IPv4 addresses.
        addresses: Vec<Ipv4Net>,
    },
    /// There is no adapter of that name.
    Gone,
}

/// Tells each time what an adapter is like.
#[derive(Debug)]
pub struct DeviceWatch {
    host: Host,
    told: Arc<Notify>,
    /// The next look, when nothing tells before.
    due: Instant,
    /// A look that goes on when nobody waits for it: its end would never come, were it begun anew each time.
    looking: Option<JoinHandle<Result<DeviceState, HostError>>>,
    last: Option<DeviceState>,
    went_down: bool,
    _subscriptions: Vec<Subscription>,
}

impl DeviceWatch {
    /// Watches the adapter called `device`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Never on Windows: without notifications, there is the look each second.
    pub fn new(device: &str) -> Result<Self, HostError> {
        let told = Arc::new(Notify::new());
        let subscriptions = Subscription::to(&[Topic::Addresses, Topic::Interfaces], &told).unwrap_or_else(|error| {
            tracing::warn!(%error, "changes of addresses are not notified; they are looked for each second");
            Vec::new()
        });
        Ok(Self {
            host: connect_host(device)?,
            told,
            due: Instant::now(),
            looking: None,
            last: None,
            went_down: false,
            _subscriptions: subscriptions,
        })
    }

    /// Comes back when the adapter is not as it was when its owner last learnt of it. Nothing is lost when it is given up before and
    /// asked again.
    ///
    /// # Errors
    /// When the host does not say.
    pub async fn next(&mut self) -> Result<DeviceState, HostError> {
        loop {
            let Some(look) = &mut self.looking else {
                tokio::select! {
                    () = tokio::time::sleep_until(self.due) => {
                        let host = self.host.clone();
                        self.looking = Some(tokio::spawn(async move { query(&host).await }));
                    }
                    () = self.told.notified() => self.due = self.due.min(Instant::now() + QUIET),
                }
                continue;
            };
            let seen = look.await;
            self.looking = None;
            self.due = Instant::now() + PACE;
            // It is never stopped, and does not panic.
            let Ok(state) = seen else { continue };
            let state = state?;
            if self.last.as_ref() != Some(&state) {
                if let (Some(DeviceState::Present { up: true, .. }), DeviceState::Present { up: false, .. }) =
                    (&self.last, &state)
                {
                    self.went_down = true;
                }
                self.last = Some(state.clone());
                return Ok(state);
            }
        }
    }

    /// Notes what the owner has seen by asking himself.
    pub fn learnt(&mut self, state: DeviceState) {
        if let DeviceState::Present { ifindex, .. } = &state {
            self.host.note_creation(*ifindex);
        }
        self.last = Some(state);
        // What it would see may be older.
        self.looking = None;
    }

    /// Whether the link has been down since the last call.
    pub fn take_went_down(&mut self) -> bool {
        std::mem::take(&mut self.went_down)
    }
}

async fn query(host: &Host) -> Result<DeviceState, HostError> {
    let Some(facts) = host.device().await? else { return Ok(DeviceState::Gone) };
    let addresses = host.device_addresses().await?;
    Ok(DeviceState::Present { ifindex: facts.ifindex, up: facts.up, addresses })
}
