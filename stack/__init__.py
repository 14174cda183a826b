# SPDX-License-Identifier: Apache-2.0
"""The data plane in C: frames in, fragments out; api.h is every call into it."""
