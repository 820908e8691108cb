//! A host on which the program is killed at a chosen step: the step is the last thing that happens.

use std::{
    future::pending,
    sync::atomic::{AtomicIsize, Ordering},
};

use ipnet::Ipv4Net;
use overlay_platform::{DeviceFacts, HostError, HostNet, Outcome, change::Change};
use tokio::sync::Notify;

/// Where in its step the program is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Before the host does it.
    Before,
    /// After the host did it, before the program learns of it.
    After,
}

/// The host `inner`, until the kill.
pub struct Interrupted<'a, H> {
    inner: &'a H,
    kill: Kill,
    steps: AtomicIsize,
    killed: Notify,
}

impl<'a, H: HostNet> Interrupted<'a, H> {
    /// Kills the program in the step after `steps` steps.
    pub fn after(inner: &'a H, steps: usize, kill: Kill) -> Self {
        Self { inner, kill, steps: AtomicIsize::new(steps as isize), killed: Notify::new() }
    }

    /// Runs `work` until it is done or killed (`None`).
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.killed.notified() => None,
        }
    }

    async fn step<T>(&self, work: impl Future<Output = T>) -> T {
        let last = self.steps.fetch_sub(1, Ordering::Relaxed) <= 0;
        if last && self.kill == Kill::Before {
            return self.die().await;
        }
        let result = work.await;
        if last { self.die().await } else { result }
    }

    async fn die<T>(&self) -> T {
        self.killed.notify_one();
        pending().await
    }
}

impl<H: HostNet> HostNet for Interrupted<'_, H> {
    async fn device(&self) -> Result<Option<DeviceFacts>, HostError> {
        self.inner.device().await
    }

    async fn apply(&self, change: &Change) -> Result<Outcome, HostError> {
        self.step(self.inner.apply(change)).await
    }

    async fn present(&self, change: &Change) -> Result<bool, HostError> {
        self.inner.present(change).await
    }

    async fn undo(&self, change: &Change) -> Result<bool, HostError> {
        self.step(self.inner.undo(change)).await
    }

    async fn addresses(&self) -> Result<Vec<(String, Ipv4Net)>, HostError> {
        self.inner.addresses().await
    }

    async fn device_addresses(&self) -> Result<Vec<Ipv4Net>, HostError> {
        self.inner.device_addresses().await
    }

    async fn delete_device(&self) -> Result<bool, HostError> {
        self.step(self.inner.delete_device()).await
    }
}
