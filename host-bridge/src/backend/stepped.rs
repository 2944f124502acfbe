//! The model without its thread: registers that reach it directly, on the core that steps it.
//!
//! Used by the conformance suite's stepped backend, by `hybrid-benches` and by the tests of crash
//! dumps. It is no [`super::Backend`]: no partition is launched with it, and who holds the model
//! steps it and owns its time. The model must not be borrowed while the driver runs.

use std::cell::RefCell;
use std::rc::Rc;

use nvme_driver::{ControlRegs, RegsError};
use nvme_model::Model;

/// Registers of a model on the same core, which somebody steps: no thread and no mailbox between.
/// For tests, and for who counts what the driver alone costs.
#[derive(Debug)]
pub struct SteppedRegs(Rc<RefCell<Model>>);

impl SteppedRegs {
    /// Those of `model`, leaked: a driver keeps them for ever.
    #[must_use]
    pub fn leak(model: &Rc<RefCell<Model>>) -> &'static Self {
        Box::leak(Box::new(Self(Rc::clone(model))))
    }
}

impl ControlRegs for SteppedRegs {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        let value = self.0.borrow_mut().read_reg(offset, 4);
        u32::try_from(value).map_err(|_| RegsError::Refused(offset))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        Ok(self.0.borrow_mut().read_reg(offset, 8))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        self.0.borrow_mut().write_reg(offset, 4, value.into());
        Ok(())
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        self.0.borrow_mut().write_reg(offset, 8, value);
        Ok(())
    }
}
