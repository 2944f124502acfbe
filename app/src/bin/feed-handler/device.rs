//! From `--device` and the model's options to a backend.

use std::path::Path;

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

/// The backend that `--device` names.
pub(crate) fn backend(machine: &MachineArgs, need: Need) -> Result<Box<dyn Backend>, Failure> {
    let device = DeviceSpec::parse(&machine.device).map_err(Failure::error)?;
    let VfioArgs { give_back } = machine.vfio;
    let vfio = VfioOptions { give_back };
    let VfioUserArgs { vfio_user_timeout: timeout, vfio_user_reconnect: reconnect } =
        machine.vfio_user;
    let vfio_user = VfioUserOptions { timeout, reconnect };
    let uring = uring(machine, device, need)?;
    let mut options = DeviceOptions { vfio, vfio_user, uring, ..DeviceOptions::default() };
    if let DeviceSpec::Model { image } = device {
        options.model = model(machine, image, need)?;
    }
    let refused = |error: BackendError| Failure { exit: error.exit(), line: error.to_string() };
    let backend = from_spec(&device, options).map_err(refused)?;
    backend.look().map_err(refused)?;
    if device.needs_allow_writes() {
        refuse_writes(machine, need)?;
    }
    Ok(backend)
}

/// The bridge that the options describe, with a file large enough for the feed.
fn uring(
    machine: &MachineArgs,
    device: DeviceSpec<'_>,
    need: Need,
) -> Result<UringOptions, Failure> {
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
        Need::Write(_) if path.starts_with("/dev/") => None,
        Need::Write(_) => {
            let bytes = args.uring_size.unwrap_or(wanted(need));
            Some(bytes.next_multiple_of(1 << 20))
        }
    };
    Ok(UringOptions {
        sqpoll: args.uring_sqpoll,
        sqpoll_idle: args.uring_sqpoll_idle,
        iopoll: args.uring_iopoll,
        buffered: args.uring_buffered,
        fixed: !args.uring_no_fixed,
        lba_bytes: args.uring_lba.unwrap_or(0),
        create_bytes,
        read_only: matches!(need, Need::Read),
        ..UringOptions::default()
    })
}

/// A drive may carry somebody's data, whatever its first blocks look like.
fn refuse_writes(machine: &MachineArgs, need: Need) -> Result<(), Failure> {
    if matches!(need, Need::Write(_)) && !machine.allow_writes {
        return Err(Failure::error(format_args!(
            "device {} may carry data, which the feed would overwrite; --allow-writes permits it",
            machine.device
        )));
    }
    Ok(())
}

/// The model that the options describe, large enough for the feed.
fn model(machine: &MachineArgs, image: Option<&str>, need: Need) -> Result<ModelOptions, Failure> {
    let args = &machine.model;
    let lba_bytes = args.model_lba;
    let (create_image, bytes) = match image {
        None => (false, args.model_size.unwrap_or(wanted(need))),
        Some(path) => image_size(Path::new(path), args.model_size, need)?,
    };
    check_size(machine, need, bytes, lba_bytes)?;
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
fn wanted(need: Need) -> u64 {
    match need {
        Need::Write(feed_bytes) => (feed_bytes + feed_bytes / 100 + (1 << 20)).max(LEAST_BYTES),
        Need::Read | Need::Ask => LEAST_BYTES,
    }
}

/// Refuses a namespace that is too small for a feed of known length, before anything is written.
fn check_size(
    machine: &MachineArgs,
    need: Need,
    bytes: u64,
    lba_bytes: u32,
) -> Result<(), Failure> {
    let Need::Write(feed_bytes) = need else { return Ok(()) };
    let shape = Shape::new(CHUNK_BYTES, lba_bytes).map_err(Failure::error)?;
    let chunks = shape.chunks_for(feed_bytes).saturating_mul(CHUNK_BYTES.into());
    let needed = shape.data_offset.saturating_add(chunks);
    if needed <= bytes {
        return Ok(());
    }
    let fix = match (machine.model.model_size, machine.device.split_once(':')) {
        (Some(_), _) => "raise --model-size",
        (None, Some(_)) => "remove the image, or name another: it is made large enough",
        (None, None) => "raise --model-size",
    };
    Err(Failure::error(format_args!(
        "the feed needs {needed} bytes on the device, {} has {bytes}; {fix}",
        machine.device
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
                let bytes = size.unwrap_or(wanted(need)).next_multiple_of(1 << 20);
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
