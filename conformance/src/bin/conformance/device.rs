//! From `--device` to a backend for each case.
//!
//! The model in memory is one controller for the whole run: it goes from case to case with what its
//! namespaces hold, as a drive would. So does the one behind our own vfio-user server. Everything
//! else is opened anew by its name.

use host_bridge::backend::{
    Backend, BackendError, DeviceOptions, DeviceReport, ModelBackend, from_spec,
};
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};
use hybrid_conventions::DeviceSpec;
use nvme_model::{Idle, Model, ModelConfig, NamespaceConfig};

use crate::Failure;

/// What `--device` names.
pub(crate) struct Device<'a> {
    spec: DeviceSpec<'a>,
    model: Option<Box<Model>>,
    server: Option<VfioUserServer>,
}

impl<'a> Device<'a> {
    pub(crate) const fn new(spec: DeviceSpec<'a>) -> Self {
        Self { spec, model: None, server: None }
    }

    /// As [`Device::new`], with our own server behind the socket that it names.
    pub(crate) fn served(spec: DeviceSpec<'a>) -> Result<Self, Failure> {
        let DeviceSpec::VfioUser { socket } = spec else {
            let line = format!("--own-server is for --device vfio-user:SOCKET, not for {spec}");
            return Err(Failure::error(line));
        };
        let model = with_namespaces(namespaces());
        // It shares a CPU with whatever else runs here.
        let idle = Idle::Yield { after_steps: 2_000 };
        let options = ServerOptions { model, idle, ..ServerOptions::default() };
        let server = VfioUserServer::start(socket.as_ref(), options).map_err(Failure::error)?;
        Ok(Self { server: Some(server), ..Self::new(spec) })
    }

    /// The device, to be attached once.
    pub(crate) fn backend(&mut self) -> Result<Box<dyn Backend>, BackendError> {
        match (self.spec, self.model.take()) {
            (DeviceSpec::Model { image: None }, Some(model)) => {
                Ok(Box::new(ModelBackend::again(model)))
            }
            (spec, _) => from_spec(&spec, options(spec)),
        }
    }

    /// Takes back what a case leaves.
    pub(crate) fn returned(&mut self, report: &mut DeviceReport) {
        self.model = report.model.take();
        if let Some(server) = &self.server {
            let seen = server.with_model(|model| {
                let all = model.take_mistakes();
                all.iter().map(ToString::to_string).collect()
            });
            let gone = || vec!["the server's thread has ended".to_owned()];
            report.mistakes.extend(seen.unwrap_or_else(gone));
        }
    }

    /// Whether what is on it may be somebody's, so that it takes a flag to overwrite it.
    pub(crate) const fn needs_allow_writes(&self) -> bool {
        self.spec.needs_allow_writes() && self.server.is_none()
    }
}

fn options(spec: DeviceSpec<'_>) -> DeviceOptions {
    let mut options = DeviceOptions::default();
    options.model.config = match spec {
        // As many blocks of 4 KiB as it holds.
        DeviceSpec::Model { image: Some(_) } => {
            with_namespaces(vec![NamespaceConfig::memory(1, 0)])
        }
        _ => with_namespaces(namespaces()),
    };
    options
}

/// Transfers of up to 4 MiB, so that every shape of a PRP list can be tried.
fn with_namespaces(namespaces: Vec<NamespaceConfig>) -> ModelConfig {
    ModelConfig {
        namespaces,
        mdts: 10,
        max_io_queues: 8,
        out_of_order: true,
        ..ModelConfig::default()
    }
}

/// Small, common and large blocks, a hole, and two that must be refused.
fn namespaces() -> Vec<NamespaceConfig> {
    let mut metadata = NamespaceConfig::memory(9, 64);
    metadata.metadata_bytes = 8;
    let mut zoned = NamespaceConfig::memory(10, 64);
    zoned.command_set = 2;
    vec![
        NamespaceConfig::memory(1, 64 << 10).lba_bytes(512),
        NamespaceConfig::memory(3, 8 << 10),
        NamespaceConfig::memory(4, 512).lba_bytes(65536),
        metadata,
        zoned,
    ]
}
