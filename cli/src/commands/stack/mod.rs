//! The stack itself: starting it, looking at it, using it, stopping it.

pub(super) mod doctor;
pub(super) mod down;
pub(super) mod env;
pub(super) mod logs;
pub(super) mod restart;
pub(super) mod roll;
pub(super) mod scale;
pub(super) mod status;
pub(super) mod token;
pub(super) mod up;
