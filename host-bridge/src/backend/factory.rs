//! From `--device` to a backend: the one place where a name becomes a device.
//!
//! Every program that takes `--device` comes here with the parsed name and its [`DeviceOptions`].
//! Nothing is opened here: that is [`Backend::attach`]'s, when the partition's memory is there.

use std::path::PathBuf;

use hybrid_conventions::DeviceSpec;
use nvme_model::{Backing, Idle, ModelConfig, ModelGauges, NamespaceConfig};

use super::model::ModelBackend;
use super::uring::{UringBackend, UringOptions};
use super::vfio::{VfioBackend, VfioOptions};
use super::vfio_user::{VfioUserBackend, VfioUserOptions};
use super::{Backend, BackendError};

/// What goes with `--device`: each backend takes its own part and leaves the others alone.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// For `model[:IMAGE]`.
    pub model: ModelOptions,
    /// For a PCI address.
    pub vfio: VfioOptions,
    /// For `vfio-user:SOCKET`.
    pub vfio_user: VfioUserOptions,
    /// For `uring:PATH` and `uring-cmd:NODE`.
    pub uring: UringOptions,
}

/// What the model is like.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The controller. The image of `model:IMAGE` becomes the backing of its first namespace.
    pub config: ModelConfig,
    /// Make the image if it is not there; its namespace then has the blocks of `config`. With 0
    /// blocks an existing image says how many there are.
    pub create_image: bool,
    /// What its thread does without work; by default it depends on the housekeeping CPUs.
    pub idle: Option<Idle>,
    /// The housekeeping CPU of its thread.
    pub pin: Option<u32>,
    /// Where it tells how busy it is.
    pub gauges: ModelGauges,
}

impl Default for ModelOptions {
    /// A namespace of 256 MiB in blocks of 4 KiB, sparse until written.
    fn default() -> Self {
        const BLOCKS: u64 = (256 << 20) / 4096;
        let namespaces = vec![NamespaceConfig::memory(1, BLOCKS)];
        Self {
            config: ModelConfig { namespaces, ..ModelConfig::default() },
            create_image: false,
            idle: None,
            pin: None,
            gauges: ModelGauges::default(),
        }
    }
}

/// The backend that `device` names.
///
/// # Errors
/// [`BackendError::Model`] if an image is named and the model has no namespace to put it behind.
pub fn from_spec(
    device: &DeviceSpec<'_>,
    options: DeviceOptions,
) -> Result<Box<dyn Backend>, BackendError> {
    Ok(match *device {
        DeviceSpec::Model { image } => Box::new(options.model.backend(image)?),
        DeviceSpec::Pci(bdf) => Box::new(VfioBackend::new(bdf, options.vfio)),
        DeviceSpec::VfioUser { socket } => {
            Box::new(VfioUserBackend::new(socket, options.vfio_user))
        }
        DeviceSpec::Uring { path } => Box::new(UringBackend::new(path, options.uring)),
        DeviceSpec::UringCmd { node } => Box::new(UringBackend::passthrough(node, options.uring)),
    })
}

impl ModelOptions {
    fn backend(mut self, image: Option<&str>) -> Result<ModelBackend, BackendError> {
        if let Some(image) = image {
            let Some(namespace) = self.config.namespaces.first_mut() else {
                let line = format!("image {image} has no namespace to stand behind");
                return Err(BackendError::Model(line));
            };
            let (path, create) = (PathBuf::from(image), self.create_image);
            namespace.backing = Backing::Image { path, create };
        }
        let mut backend = ModelBackend::new(self.config).watched_by(&self.gauges);
        if let Some(idle) = self.idle {
            backend = backend.idle(idle);
        }
        if let Some(cpu) = self.pin {
            backend = backend.pinned_to(cpu);
        }
        Ok(backend)
    }
}

#[cfg(test)]
mod tests {
    use hybrid_conventions::Exit;

    use super::*;

    fn made(device: &str) -> Result<Box<dyn Backend>, BackendError> {
        let spec = DeviceSpec::parse(device).expect("the grammar knows it");
        from_spec(&spec, DeviceOptions::default())
    }

    #[test]
    fn storage_that_is_not_there_is_told_when_it_is_looked_for_and_not_before() {
        for device in ["uring:/nowhere/day.img", "uring-cmd:/dev/ng99n1"] {
            let backend = made(device).expect("a backend");
            assert_eq!(backend.describe(), device);
            let error = backend.look().expect_err("nothing there");
            let line = error.to_string();
            assert!(line.starts_with(&format!("device {device}: ")), "{line}");
            assert!(line.contains("is not there; "), "{line}");
            assert_eq!(error.exit(), Exit::Missing);
        }
    }

    #[test]
    fn an_address_is_a_vfio_device_in_its_full_form() {
        assert_eq!(made("03:00.0").expect("a backend").describe(), "vfio 0000:03:00.0");
    }

    #[test]
    fn a_server_is_named_by_its_socket_and_not_looked_for_before_it_is_attached() {
        let server = made("vfio-user:/nowhere/cntrl").expect("a backend").describe();
        assert_eq!(server, "vfio-user:/nowhere/cntrl");
    }

    #[test]
    fn a_model_is_made_with_its_image_behind_the_first_namespace() {
        let memory = made("model").expect("a model").describe();
        assert_eq!(memory, "model, namespace 1 in memory");
        let image = made("model:/tmp/day.img").expect("a model").describe();
        assert_eq!(image, "model, namespace 1 in /tmp/day.img");
        let mut options = DeviceOptions::default();
        options.model.config.namespaces.clear();
        let spec = DeviceSpec::Model { image: Some("/tmp/day.img") };
        assert!(matches!(from_spec(&spec, options), Err(BackendError::Model(_))));
    }
}
