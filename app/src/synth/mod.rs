//! A seeded, realistic trading day.
