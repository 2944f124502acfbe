//! The grammar of `--device`: which thing the driver talks to.
//!
//! Only the words are understood here; whether the thing exists is the host bridge's to find out.

use core::fmt;

use crate::bdf::Bdf;
use crate::seen::Seen;

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSpec<'a> {
    /// `model[:IMAGE]`: the software controller, with memory or an image file behind it.
    Model {
        /// Path of the image file.
        image: Option<&'a str>,
    },
    /// A PCI function, through VFIO.
    Pci(Bdf),
    /// `vfio-user:SOCKET`: a controller in another process.
    VfioUser {
        /// Path of the server's socket.
        socket: &'a str,
    },
    /// `uring:PATH`: a block device or file, through io_uring.
    Uring {
        /// Path of the block device or file.
        path: &'a str,
    },
    /// `uring-cmd:/dev/ngX`: NVMe passthrough, through io_uring.
    UringCmd {
        /// Path of the generic character device.
        node: &'a str,
    },
}

/// A device that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceSpecError {
    /// None of the forms.
    #[error(
        "device {0} is not understood; allowed are model[:IMAGE], a pci address such as \
         0000:03:00.0, vfio-user:SOCKET, uring:PATH and uring-cmd:/dev/ngXnY"
    )]
    Unknown(Seen),
    /// A form that needs a path, without one.
    #[error("device {0} has no path after its colon")]
    NoPath(Seen),
    /// `uring-cmd` with something else than a generic node.
    #[error("device {0} is not an nvme generic node; allowed are /dev/ngXnY")]
    NotGeneric(Seen),
    /// Looks like a PCI address and is not one.
    #[error(transparent)]
    Pci(#[from] crate::bdf::BdfError),
}

impl<'a> DeviceSpec<'a> {
    /// Parses the argument of `--device`.
    ///
    /// # Errors
    /// [`DeviceSpecError`] says what was seen and what is allowed.
    pub fn parse(text: &'a str) -> Result<Self, DeviceSpecError> {
        let seen = Seen::new(text);
        let (scheme, path) = match text.split_once(':') {
            Some((scheme, path)) => (scheme, Some(path)),
            None => (text, None),
        };
        let need = |path: Option<&'a str>| match path {
            Some(path) if !path.is_empty() => Ok(path),
            _ => Err(DeviceSpecError::NoPath(seen)),
        };
        match scheme {
            "model" if path.is_none() => Ok(Self::Model { image: None }),
            "model" => need(path).map(|image| Self::Model { image: Some(image) }),
            "vfio-user" => need(path).map(|socket| Self::VfioUser { socket }),
            "uring" => need(path).map(|path| Self::Uring { path }),
            "uring-cmd" => {
                let node = need(path)?;
                if !node.starts_with("/dev/ng") {
                    return Err(DeviceSpecError::NotGeneric(seen));
                }
                Ok(Self::UringCmd { node })
            }
            _ if looks_like_pci(text) => Ok(Self::Pci(text.parse()?)),
            _ => Err(DeviceSpecError::Unknown(seen)),
        }
    }

    /// Whether writing to it can harm a drive's data; such a device needs `--allow-writes`. What is
    /// behind the model and behind a vfio-user server is somebody's choice for this very purpose;
    /// what it carries is still looked at first.
    #[must_use]
    pub const fn needs_allow_writes(&self) -> bool {
        !matches!(self, Self::Model { .. } | Self::VfioUser { .. })
    }
}

/// Hexadecimal digits, then a colon: the user meant an address, so its error should speak of one.
fn looks_like_pci(text: &str) -> bool {
    let digits = text.split(':').next().unwrap_or_default();
    text.contains(':') && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

impl fmt::Display for DeviceSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { image: None } => f.write_str("model"),
            Self::Model { image: Some(image) } => write!(f, "model:{image}"),
            Self::Pci(bdf) => write!(f, "{bdf}"),
            Self::VfioUser { socket } => write!(f, "vfio-user:{socket}"),
            Self::Uring { path } => write!(f, "uring:{path}"),
            Self::UringCmd { node } => write!(f, "uring-cmd:{node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_is_understood() {
        let bdf = Bdf::new(0, 3, 0, 0).expect("in range");
        for (text, spec) in [
            ("model", DeviceSpec::Model { image: None }),
            ("model:/var/lib/x.img", DeviceSpec::Model { image: Some("/var/lib/x.img") }),
            ("model:a:b", DeviceSpec::Model { image: Some("a:b") }),
            ("0000:03:00.0", DeviceSpec::Pci(bdf)),
            ("03:00.0", DeviceSpec::Pci(bdf)),
            ("vfio-user:/run/x", DeviceSpec::VfioUser { socket: "/run/x" }),
            ("uring:/dev/nvme0n1", DeviceSpec::Uring { path: "/dev/nvme0n1" }),
            ("uring-cmd:/dev/ng0n1", DeviceSpec::UringCmd { node: "/dev/ng0n1" }),
        ] {
            assert_eq!(DeviceSpec::parse(text), Ok(spec), "{text:?}");
            let software = text.starts_with("model") || text.starts_with("vfio-user");
            assert_eq!(spec.needs_allow_writes(), !software, "{text:?}");
        }
    }

    #[test]
    fn refusals_say_what_was_seen_and_what_is_allowed() {
        for (text, message) in [
            (
                "nvme0",
                "device \"nvme0\" is not understood; allowed are model[:IMAGE], a pci address such \
                 as 0000:03:00.0, vfio-user:SOCKET, uring:PATH and uring-cmd:/dev/ngXnY",
            ),
            ("model:", "device \"model:\" has no path after its colon"),
            ("uring", "device \"uring\" has no path after its colon"),
            (
                "uring-cmd:/dev/nvme0n1",
                "device \"uring-cmd:/dev/nvme0n1\" is not an nvme generic node; \
                 allowed are /dev/ngXnY",
            ),
            ("03:20.0", "pci address \"03:20.0\" has device 20; devices are 00 to 1f"),
            (
                "0000:03:00",
                "pci address \"0000:03:00\" is not understood; \
                 write it as 0000:03:00.0 or 03:00.0",
            ),
        ] {
            assert_eq!(DeviceSpec::parse(text).expect_err(text).to_string(), message);
        }
        for text in ["", ":", "models", "MODEL", "/dev/nvme0n1", "0000", "pci:03:00.0"] {
            let error = DeviceSpec::parse(text).expect_err(text);
            assert!(matches!(error, DeviceSpecError::Unknown(_)), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(scheme in 0_usize..4, path in "[^\\x00]{1,40}") {
            let spec = match scheme {
                0 => DeviceSpec::Model { image: Some(&path) },
                1 => DeviceSpec::VfioUser { socket: &path },
                2 => DeviceSpec::Uring { path: &path },
                _ => DeviceSpec::Model { image: None },
            };
            let text = spec.to_string();
            prop_assert_eq!(DeviceSpec::parse(&text), Ok(spec));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:.]{0,20}|\\PC*") {
            let _ = DeviceSpec::parse(&text);
        }
    }
}
