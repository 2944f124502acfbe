//! From `--device` and the model's options to a backend.

use std::path::Path;
use std::time::Duration;

use host_bridge::backend::model::{LatencyModel, ModelConfig, NamespaceConfig};
use host_bridge::backend::vfio::VfioOptions;
use host_bridge::backend::{
    Backend, BackendError, DeviceOptions, ModelOptions, UringOptions, VfioUserOptions, from_spec,
};
use hybrid_conventions::DeviceSpec;

use feed_handler::handler::CHUNK_BYTES;
use hybrid_abi::feed::Shape;

use crate::cli::{MachineArgs, VfioArgs, VfioUserArgs};
use crate::failure::Failure;
use crate::storage::Choice;

/// Least size of a model's namespace: the order of magnitude of a day, and sparse until written.
const LEAST_BYTES: u64 = 256 << 20;

/// What a run wants of its device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// To write a feed of so many bytes.
    Write(u64),
    /// To read what is there.
    Read,
    /// Only to ask.
    Ask,
}

/// Which device, and what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    pub(crate) need: Need,
    /// Bytes a block of a file, where that is known and was not said.
    pub(crate) lba_bytes: Option<u32>,
    /// A file that is not there is made.
    pub(crate) create: bool,
    /// Its blocks were permitted to be written under another name.
    pub(crate) permitted: bool,
}

impl<'a> Wanted<'a> {
    /// As a command line names it.
    pub(crate) const fn device(name: &'a str, need: Need) -> Self {
        Self { name, need, lba_bytes: None, create: true, permitted: false }
    }
}

/// How long another vfio-user server is waited for, where nothing else waits for the device.
const RECONNECT: Duration = Duration::from_secs(10);

/// The backend of a device, which was looked at.
pub(crate) fn backend(
    machine: &MachineArgs,
    wanted: Wanted<'_>,
) -> Result<Box<dyn Backend>, Failure> {
    let Wanted { name, need, permitted, .. } = wanted;
    let device = DeviceSpec::parse(name).map_err(Failure::error)?;
    let VfioArgs { give_back } = machine.vfio;
    let vfio = VfioOptions { give_back };
    let VfioUserArgs { vfio_user_timeout: timeout, vfio_user_reconnect: reconnect } =
        machine.vfio_user;
    let waits =
        if machine.storage.storage == Some(Choice::Auto) { Duration::ZERO } else { RECONNECT };
    let vfio_user = VfioUserOptions { timeout, reconnect: reconnect.unwrap_or(waits) };
    let uring = uring(machine, device, wanted)?;
    let mut options = DeviceOptions { vfio, vfio_user, uring, ..DeviceOptions::default() };
    if let DeviceSpec::Model { image } = device {
        options.model = model(machine, image, wanted)?;
    }
    let refused = |error: BackendError| Failure {
        exit: error.exit(),
        line: error.to_string(),
        device: error.blames_device(),
    };
    let backend = from_spec(&device, options).map_err(refused)?;
    backend.look().map_err(refused)?;
    if device.needs_allow_writes() && !permitted {
        refuse_writes(machine, device, need)?;
    }
    Ok(backend)
}

/// The bridge that the options describe, with a file large enough for the feed.
fn uring(
    machine: &MachineArgs,
    device: DeviceSpec<'_>,
    wanted: Wanted<'_>,
) -> Result<UringOptions, Failure> {
    let Wanted { need, create, .. } = wanted;
    let path = match device {
        DeviceSpec::Uring { path } | DeviceSpec::UringCmd { node: path } => path,
        _ => return Ok(UringOptions::default()),
    };
    let args = &machine.uring;
    let create_bytes = match need {
        Need::Ask => {
            return Err(Failure::error(format_args!(
                "device {device} is driven by the host's kernel, and is asked there: nvme id-ctrl, \
                 id-ns, smart-log, error-log, list"
            )));
        }
        Need::Read => None,
        Need::Write(_) if path.starts_with("/dev/") || !create => None,
        Need::Write(_) => {
            let bytes = args.uring_size.unwrap_or(sized(need));
            Some(bytes.next_multiple_of(1 << 20))
        }
    };
    Ok(UringOptions {
        sqpoll: args.uring_sqpoll,
        sqpoll_idle: args.uring_sqpoll_idle,
        iopoll: args.uring_iopoll,
        buffered: args.uring_buffered,
        fixed: !args.uring_no_fixed,
        lba_bytes: args.uring_lba.or(wanted.lba_bytes).unwrap_or(0),
        create_bytes,
        read_only: matches!(need, Need::Read),
        ..UringOptions::default()
    })
}

/// A drive may carry somebody's data, whatever its first blocks look like.
fn refuse_writes(machine: &MachineArgs, device: DeviceSpec<'_>, need: Need) -> Result<(), Failure> {
    if matches!(need, Need::Write(_)) && !machine.allow_writes {
        return Err(Failure::error(format_args!(
            "device {device} may carry data, which the feed would overwrite; --allow-writes \
             permits it"
        )));
    }
    Ok(())
}

/// The model that the options describe, large enough for the feed.
fn model(
    machine: &MachineArgs,
    image: Option<&str>,
    wanted: Wanted<'_>,
) -> Result<ModelOptions, Failure> {
    let (args, need) = (&machine.model, wanted.need);
    let lba_bytes = args.model_lba;
    let (create_image, bytes) = match image {
        None => (false, args.model_size.unwrap_or(sized(need))),
        Some(path) => image_size(Path::new(path), args.model_size, need)?,
    };
    check_size(machine, wanted, bytes, lba_bytes)?;
    let blocks = bytes / u64::from(lba_bytes);
    let mut config = ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(lba_bytes)],
        mdts: args.model_mdts,
        serial: "HYBRIDMODEL0001".to_owned(),
        ..ModelConfig::default()
    };
    if args.model_latency != 0 {
        config.latency = LatencyModel::FixedNs(args.model_latency);
    }
    if let Some(seed) = args.model_out_of_order {
        config.out_of_order = true;
        config.seed = seed;
    }
    Ok(ModelOptions { config, create_image, ..ModelOptions::default() })
}

/// Size of a model's namespace for a feed: its chunks' headers, superblock and last chunk are less
/// than 1 MiB and 1 % more.
fn sized(need: Need) -> u64 {
    match need {
        Need::Write(feed_bytes) => (feed_bytes + feed_bytes / 100 + (1 << 20)).max(LEAST_BYTES),
        Need::Read | Need::Ask => LEAST_BYTES,
    }
}

/// Refuses a namespace that is too small for a feed of known length, before anything is written.
fn check_size(
    machine: &MachineArgs,
    wanted: Wanted<'_>,
    bytes: u64,
    lba_bytes: u32,
) -> Result<(), Failure> {
    let Need::Write(feed_bytes) = wanted.need else { return Ok(()) };
    let shape = Shape::new(CHUNK_BYTES, lba_bytes).map_err(Failure::error)?;
    let chunks = shape.chunks_for(feed_bytes).saturating_mul(CHUNK_BYTES.into());
    let needed = shape.data_offset.saturating_add(chunks);
    if needed <= bytes {
        return Ok(());
    }
    let fix = match (machine.model.model_size, wanted.name.split_once(':')) {
        (Some(_), _) => "raise --model-size",
        (None, Some(_)) => "remove the image, or name another: it is made large enough",
        (None, None) => "raise --model-size",
    };
    Err(Failure::error(format_args!(
        "the feed needs {needed} bytes on the device, {} has {bytes}; {fix}",
        wanted.name
    )))
}

/// The image, as large as it is, or to be made: whether to make it, and its bytes.
fn image_size(path: &Path, size: Option<u64>, need: Need) -> Result<(bool, u64), Failure> {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Err(Failure::error(format_args!(
            "image {}: not a regular file; --device names drives by their PCI address",
            path.display()
        ))),
        Ok(meta) => Ok((false, size.unwrap_or(meta.len()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match need {
            Need::Write(_) => {
                let bytes = size.unwrap_or(sized(need)).next_multiple_of(1 << 20);
                Ok((true, bytes))
            }
            Need::Read | Need::Ask => Err(Failure::missing(format_args!(
                "image {} is not there; make it with `feed-handler ingest FILE --device {}`",
                path.display(),
                format_args!("model:{}", path.display()),
            ))),
        },
        Err(error) => Err(Failure::file("image", path, &error)),
    }
}
