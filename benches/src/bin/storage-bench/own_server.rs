//! Our own vfio-user server, for the suite: the model without memory behind a socket, polling on
//! the other core, in this process. What the driver does is what it does with any server: registers
//! by message, doorbells through a mapping, memory by file.

use std::path::PathBuf;

use host_bridge::backend::model::{Backing, Idle, ModelConfig, NamespaceConfig};
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};
use nvme_model::ModelGauges;

use crate::device::{Device, GAP_NS, PATTERN};
use crate::failure::Failure;

/// Blocks of its namespace: 64 GiB that are not there.
const BLOCKS: u64 = 1 << 24;

/// A server at a socket of its own, gone with the value.
pub(crate) struct OwnServer {
    dir: PathBuf,
    gauges: ModelGauges,
    server: Option<VfioUserServer>,
}

impl OwnServer {
    /// Serves on `cpu`, with all of its time.
    pub(crate) fn start(cpu: Option<u32>) -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("storage-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| Failure::file(&dir, &error))?;
        let mut namespace = NamespaceConfig::memory(1, BLOCKS);
        namespace.backing = Backing::Null { pattern: PATTERN.into() };
        let model = ModelConfig { namespaces: vec![namespace], ..ModelConfig::default() };
        let gauges = ModelGauges::default();
        let options = ServerOptions { model, idle: Idle::Spin, cpu, gauges: gauges.clone() };
        let server = VfioUserServer::start(&dir.join("cntrl"), options).map_err(Failure::error);
        Ok(Self { server: Some(server?), dir, gauges })
    }

    /// For `--device`.
    pub(crate) fn device(&self) -> String {
        format!("vfio-user:{}", self.dir.join("cntrl").display())
    }

    /// What is known of it, as of the model in this process, and of a server of others is not.
    pub(crate) fn known(&self, device: &mut Device) {
        device.gauges = self.gauges.clone();
        device.null_pattern = PATTERN;
        device.gap_ns = GAP_NS;
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
