package queuepool

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// registry is a file with the configurations of all queues that were ever used
// and may hold records, by their keys. Its errors are logged: without it
// nothing is lost, but stays in a queue whose path has changed.
type registry struct {
	file func() string
	mu   sync.Mutex
}

// registryFile is the registry of Caddy's process.
func registryFile() string { return filepath.Join(caddy.AppDataDir(), "tagged_urls", "queues.json") }

// note notes that a queue is in use.
func (r *registry) note(key string, config json.RawMessage, log *zap.Logger) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, config); err != nil {
		return // it was valid
	}
	r.edit(log, func(queues map[string]json.RawMessage) bool {
		if bytes.Equal(queues[key], compact.Bytes()) {
			return false
		}
		queues[key] = compact.Bytes()
		return true
	})
}

// forget notes that a queue is empty.
func (r *registry) forget(key string, log *zap.Logger) {
	r.edit(log, func(queues map[string]json.RawMessage) bool {
		delete(queues, key)
		return true
	})
}

// read returns the noted queues.
func (r *registry) read(log *zap.Logger) map[string]json.RawMessage {
	return r.edit(log, func(map[string]json.RawMessage) bool { return false })
}

// edit returns the noted queues after change has seen them; change reports
// whether it changed any.
func (r *registry) edit(log *zap.Logger, change func(queues map[string]json.RawMessage) bool) map[string]json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	file := r.file()
	queues, err := readRegistry(file, log)
	if err == nil && change(queues) {
		err = writeRegistry(file, queues)
	}
	if err != nil {
		log.Warn("can't save which queues are in use: if you change the queue's path, move its directory along",
			zap.String("file", file), zap.Error(err))
	}
	return queues
}

// readRegistry reads the file. One that is damaged is quarantined.
func readRegistry(file string, log *zap.Logger) (map[string]json.RawMessage, error) {
	queues := make(map[string]json.RawMessage)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return queues, nil
	}
	if err != nil {
		return nil, err
	}
	if bad := json.Unmarshal(data, &queues); bad != nil {
		aside := file + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(file, aside); err != nil {
			return nil, err
		}
		log.Error("the list of previous queues is damaged; it was set aside, and a new one is begun",
			zap.String("file", file), zap.String("kept_as", aside), zap.Error(bad))
		clear(queues)
	}
	return queues, nil
}

// writeRegistry replaces the file whole, so that a crash leaves the old one or
// the new one.
func writeRegistry(file string, queues map[string]json.RawMessage) error {
	data, err := json.Marshal(queues)
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(data)
	if err = errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil || runtime.GOOS == "windows" {
		return err
	}
	directory, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
